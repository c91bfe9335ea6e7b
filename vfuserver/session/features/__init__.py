"""Device features, one file each. `vfuserver.session.feature.FEATURES` finds them."""
