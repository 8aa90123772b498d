"""`weightd stress`: a real daemon under a real keeper, for as long as is wanted, with everything
that may go wrong going wrong at once, and every answer checked.

main.py          the order of things;  plan.py  what a run is to be
crew.py          all that goes on, and may be done
schedule.py      random steps, the same for the same seed
findings.py      what was done and found; the verdict
stage.py         the folder, the keeper, the children: what must not be left behind
answers.py       three sets of weights, and what each of them answers
ledger.py        what a client can know of a model's versions
predictors.py    workers that predict without a break;  predictor.py  one of them
publishing.py    publishes and rollbacks at full rate;  requester.py  the client that asks
outages.py       the daemon killed and stopped;  victims.py  stagers
storms.py        a thousand workers at once;  storm_parent.py  who forks them
want.py          no memory, no descriptors
hostile.py       slow and hostile peers
reuse.py         a PID that comes again;  recycler.py  who has it come
fuzzing.py       mutated frames on every socket;  fuzzer.py  who sends them
mutation.py      frames;  zmtp.py  how ZeroMQ frames them
leaks.py         what daemon and keeper have
"""
