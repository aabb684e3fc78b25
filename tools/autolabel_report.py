"""``report.py``, under the name that it had for folders of auto-labels."""

import sys

from report import main

if __name__ == '__main__':
    sys.exit(main())
