"""The same numbers in less memory: tiles of rows instead of whole maps.

Rows of fused logits are those of :mod:`..scale_fusion`, and ``ocr.py`` does
what mmseg's heads do: these run where ``decode_head.fast`` is False or a head
is of another kind. Decisions, restored logits and the walk of losses serve
whole logits too.
"""
