"""What does a comparison say? Its numbers, what they allow to claim, and how they are shown."""
