"""`weightd bench`: what weightd costs, against the least that it could cost on this machine.

Everything is measured in one run, weightd and its floor in turns. Nothing here is needed to use
weightd; only `weightd/cli/bench.py` may import it.

main.py            the order of things;  plan.py  what to measure, how long
comparison.py      ours against a floor and a bar: sums only;  turns.py  the clock
report.py          the table and the JSON document;  plot.py  the picture
model.py           a model and its bars;  models.py  which there are
graph.py           how they are built: mlp.py, bert.py, resnet.py, mobilenet.py, convolution.py
subject.py         a model that a daemon holds, ready to be measured;  weights.py  its tensors
daemon.py          the daemon, gone at the end
api.py, attach.py, crowd.py, first_answer.py, memory.py, predict.py, publish.py, swap.py, verify.py
                   one measurement each
workers.py         a worker process seen from here;  job.py  what it is told;  parent.py  how
worker.py, forking_worker.py, busy_worker.py, api_worker.py, crowd_worker.py, bare_server.py
                   the programs of these processes;  opened.py  a model as they have it
bare.py            floors without weightd: a descriptor passed on, a memcpy
onnxruntime.py     floors by onnxruntime: private sessions, and what packing costs it
"""
