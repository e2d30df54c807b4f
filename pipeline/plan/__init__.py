"""What will a run need and how fast will it be, on how many of which GPUs? Counted from the config, before there are weights."""
