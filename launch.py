"""What launch.sh and launch.bat start, with any Python from 3.10 on: sets up the environment, then runs the program."""

import sys

from zit_app.service.setup import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
