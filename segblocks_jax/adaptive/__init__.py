"""What adaptive systems share: decisions, estimators of their gradients, cost, buckets."""
