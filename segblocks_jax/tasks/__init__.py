"""Tasks, a package each: losses, metrics, labels, augmentation, evaluation, pictures."""
