"""mmseg's test.py with this package loaded, for ``mim test hmsa_mmseg``."""

import sys

from hmsa_mmseg.cli import main

if __name__ == '__main__':
    main(['test', *sys.argv[1:]])
