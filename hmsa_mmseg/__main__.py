"""``python -m hmsa_mmseg COMMAND`` is ``hmsa COMMAND``."""

from .cli import main

if __name__ == '__main__':
    main()
