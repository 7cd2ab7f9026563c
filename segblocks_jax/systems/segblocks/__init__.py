"""SegBlocks (arXiv 2011.12025): blocks at full or half resolution, chosen by a policy."""
