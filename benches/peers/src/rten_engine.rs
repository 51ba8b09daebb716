//! rten, with its weights packed when the model is loaded.

use rten::{Model, ModelOptions, NodeId};
use rten_tensor::prelude::*;

pub struct Engine {
    model: Model,
    input: NodeId,
    output: NodeId,
    shape: Vec<usize>,
}

impl Engine {
    pub fn load(bytes: &[u8], shape: &[usize]) -> Result<Engine, String> {
        let mut options = ModelOptions::with_all_ops();
        options.prepack_weights(true);
        let model = options.load(bytes.to_vec()).map_err(|error| error.to_string())?;
        let (&[input, ..], &[output, ..]) = (model.input_ids(), model.output_ids()) else {
            return Err("the model has no input or output".into());
        };
        Ok(Engine {
            model,
            input,
            output,
            shape: shape.to_vec(),
        })
    }

    pub fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, String> {
        let view = rten_tensor::TensorView::from_data(self.shape.as_slice(), input);
        let outputs = self.model.run(vec![(self.input, view.into())], &[self.output], None);
        let mut outputs = outputs.map_err(|error| error.to_string())?;
        let tensor: rten_tensor::Tensor<f32> = outputs.remove(0).try_into().map_err(|error| format!("{error:?}"))?;
        Ok(tensor.to_vec())
    }
}
