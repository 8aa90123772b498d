"""The operators of MindIR in ONNX's words, by family.

table.py         puts the families together
translation.py   what a translation is, and the commonest of them

structure.py     tuples, loads, the order of side effects
scalar.py        numbers that are computed while the model runs, as sizes are
creation.py      what makes tensors of nothing
arithmetic.py    element by element; functions.py: of one number; comparison.py: and logic
activation.py    activations
linear.py        matrix products; conv.py: convolutions; pool.py: pooling; norm.py: normalisation
recurrent.py     recurrent layers
reduction.py     reductions, and what finds, sorts or accumulates along an axis
reshaping.py     what moves elements and changes none
indexing.py      what takes elements by index
scatter.py       what puts elements by index, into a copy
padding.py       what puts elements around others, and windows cut from them
resize.py        resizing, and what trades channels for space
"""
