"""Records of runs, tables and reports made of them, time and memory by part."""
