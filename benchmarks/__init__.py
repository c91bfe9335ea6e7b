"""Every figure of docs/performance.md, by one command: `make bench` (`python -m benchmarks`).

Figures are ratios taken in one run, because machines are noisy: each round times a bare echo of the same messages and
then every case (memory: plain memory and then the core; migration: a plain socket copy of the same state and then the
servers), and what counts is the median of what each round alone would have said.
"""
