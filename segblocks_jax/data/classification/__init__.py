"""Data sets of whole images with a class each: CIFAR, ImageNet, folders of your own, procedural shapes."""
