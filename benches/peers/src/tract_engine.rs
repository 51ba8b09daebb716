//! tract, with the model optimised for the one input shape.

use std::io::Cursor;

use tract_onnx::prelude::*;

pub struct Engine {
    plan: Arc<TypedRunnableModel>,
    shape: Vec<usize>,
}

impl Engine {
    pub fn load(bytes: &[u8], shape: &[usize]) -> Result<Engine, String> {
        let load = || -> TractResult<_> {
            tract_onnx::onnx()
                .model_for_read(&mut Cursor::new(bytes))?
                .with_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape))?
                .into_optimized()?
                .into_runnable()
        };
        let plan = load().map_err(|error| format!("{error:?}"))?;
        let shape = shape.to_vec();
        Ok(Engine { plan, shape })
    }

    pub fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, String> {
        let run = || -> TractResult<Vec<f32>> {
            let input = Tensor::from_shape(&self.shape, input)?;
            let outputs = self.plan.run(tvec!(input.into()))?;
            Ok(outputs[0].to_plain_array_view::<f32>()?.iter().copied().collect())
        };
        run().map_err(|error| format!("{error:?}"))
    }
}
