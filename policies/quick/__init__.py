"""What gives the same, sooner? Read it last: nothing here is needed to understand the method."""
