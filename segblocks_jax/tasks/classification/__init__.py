"""Image classification: loss, accuracies, class lists, augmentation, what an engine says about images."""
