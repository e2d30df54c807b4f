"""What can be set? Every setting of every stage with its default, checked before anything heavy is imported."""
