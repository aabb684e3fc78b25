"""The same numbers in less memory: tiles of rows instead of whole maps.

What is computed here is defined elsewhere: the fusion in
:mod:`..scale_fusion`, heads and losses in their own modules, which run where
``decode_head.fast`` is False or a head or loss is of another kind.
"""
