"""Poses of people: joints as heat maps, crops, decoding, scores, loss, pictures."""
