"""The miniature world: drawn scenes, real digit scans and text, in the real corpora's own formats.

Everything here is a pure function of `WorldConfig`. `world.write_world` writes the raw corpora that
the prepare stage reads back with the readers of the real ones; `tower.py` and `language.py` train
the two base models that stand where a real run imports SigLIP and Llama.
"""
