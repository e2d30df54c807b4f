"""How does a row of any form become a row of ours? One file a family of forms; table.py names them all."""
