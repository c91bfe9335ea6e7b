"""Every figure the README quotes, by one command: `make bench` (`python -m benchmarks`).

Figures are ratios of medians measured in one run, because machines are noisy: each round times a bare echo of the same
messages and then every case (memory: plain memory and then the core; migration: a plain socket copy of the same state
and then the servers), and what is compared is the medians over the rounds.
"""
