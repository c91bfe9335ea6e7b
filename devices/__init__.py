"""Device models that come with vfuserver, one folder each. They import nothing but the public API `vfuserver`.

A folder's name, with dashes for underscores, is the device's name; the first line of its docstring is what
`vfuserver list` prints.
"""
