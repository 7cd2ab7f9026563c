"""DynConv for human pose: the hourglass of masked inverted residuals (arXiv 1912.03203, section 4.3)."""
