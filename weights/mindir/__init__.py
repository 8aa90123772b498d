"""MindIR, MindSpore's own model files, as weights and an ONNX graph, with nothing of MindSpore.

file ──scan──► parameters' places        ──────────────────────────► Source.tensors
     └───────► the rest, some kilobytes ──schema──► proto
                                          ──graph──► Graph, Node     (legacy*.py: of MindSpore 1)
                                          ──translator + ops/──────► Source.graph: ONNX

schema.py       the messages that are read, declared for the protobuf library
proto.py        protobuf's untyped fields, as text and numbers that are checked
scan.py         where the parameters' bytes lie; everything else as bytes
graph.py        a file's graphs and nodes as types that the rest trusts
values.py       what a name stands for while a graph is translated
emitter.py      the ONNX graph as it grows; an identical node is not written twice
inference.py    the types of ONNX values, as ONNX infers them
translator.py   walks a graph; calls of other graphs, and branches
call.py         what a translation sees of its node
ops/            the table from op to translation; its __init__.py lists the families
check.py        holds the translated graph against the types that the file declares
source.py       the Source
"""
