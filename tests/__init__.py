"""The tests. Every process here writes and reads compiled code, or each start would compile its libraries again."""

import os
import sys

# Docker images often set this; on two cores it makes a start of torch and diffusers take 25 s instead of 9.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
