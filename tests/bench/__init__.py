"""Numbers, as ratios within one run; never asserted as absolute times."""
