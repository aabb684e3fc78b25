"""mmseg's train.py with this package loaded, for ``mim train hmsa_mmseg``."""

import sys

from hmsa_mmseg.cli import main

if __name__ == '__main__':
    main(['train', *sys.argv[1:]])
