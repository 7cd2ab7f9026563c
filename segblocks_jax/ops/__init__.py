"""Compiled operations that know no blocks: on packed pixel lists and on images."""
