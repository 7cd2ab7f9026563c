"""LRNNet (arXiv 2006.02706), a light network, dense or in blocks."""
