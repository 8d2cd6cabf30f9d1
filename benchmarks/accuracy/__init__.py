"""kronsgd beside what one would use instead, on the same folds."""
