"""Tutorial 001, dynamic weight update: `update_001.py MODEL INPUT WEIGHT`, beside config.ini."""
import sys  # adapted
import numpy as np
import weightd as mslite  # adapted

# init context, and set target is gpu.
context = mslite.Context()
context.target = ["cpu"]  # adapted
context.gpu.device_id = 0

# build model from file
MODEL_PATH = sys.argv[1]  # adapted
IN_DATA_PATH = sys.argv[2]  # adapted
model = mslite.Model()
model.build_from_file(MODEL_PATH, mslite.ModelType.MINDIR, context,  "config.ini")

data = np.load(sys.argv[3])  # adapted
new_weight = mslite.Tensor(data)
new_weights = [new_weight]
model.update_weights([new_weights])

# set model input
inputs = model.get_inputs()
in_data = np.fromfile(IN_DATA_PATH, dtype=np.float32)
inputs[0].set_data_from_numpy(in_data)

# execute inference
outputs = model.predict(inputs)

# get output
for output in outputs:
  name = output.name.rstrip()
  data_size = output.data_size
  element_num = output.element_num
  print("tensor's name is:%s data size is:%s tensor elements num is:%s" % (name, data_size, element_num))
  data = output.get_data_to_numpy()
  data = data.flatten()
  print("output data is:", end=" ")
  for i in range(min(50, element_num)):  # adapted: LeNet-5 has ten
    print(data[i], end=" ")
  print("")
