"""What does each stage do? One file a stage, named as the stage."""
