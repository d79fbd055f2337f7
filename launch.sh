#!/usr/bin/env bash
# bash launch.sh           opens the app
# bash launch.sh demo      trains on 24 pictures and draws before and after
# bash launch.sh test      runs the tests (further words go to pytest)
# bash launch.sh doctor    examines this machine
# bash launch.sh update    shows what is new, asks, and takes it
# bash launch.sh shortcut  puts an icon on the desktop
# bash launch.sh WORDS     anything else is the command line `zit`
# Finds a Python; everything else is done by launch.py. launch.bat does the same on Windows.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
new_enough='import sys; sys.exit(sys.version_info < (3, 10))'

for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    if "$python" -c "$new_enough" >/dev/null 2>&1; then
        exec "$python" "$project/launch.py" "$@"
    fi
done

# No Python new enough: uv brings one. pip of an older Python is the way to uv where its installer cannot be reached.
uv=$(command -v uv || echo "$project/.zit/uv/uv")
if ! "$uv" --version >/dev/null 2>&1; then
    curl -LsSf --max-time 60 https://astral.sh/uv/install.sh | UV_UNMANAGED_INSTALL="$project/.zit/uv" sh >&2 ||
        python3 -m pip install --quiet --target "$project/.zit/uv/pip" uv || true
    [ -x "$uv" ] || uv="$project/.zit/uv/pip/bin/uv"
fi
if ! "$uv" --version >/dev/null 2>&1; then
    echo "No Python 3.10 or newer was found, and uv, which brings one, could not be installed. Install Python 3.12." >&2
    exit 1
fi
exec "$uv" run --quiet --no-project --python 3.12 "$project/launch.py" "$@"
