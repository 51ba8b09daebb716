//! ONNX's `ai.onnx.ml` domain: classical machine learning.

mod encode;
mod features;
mod linear;
mod maps;
mod scores;
mod svm;
mod trees;

use super::registry::{Entry, ml};

/// The operators of this room.
pub(super) static OPERATORS: &[Entry] = &[
    // Models.
    ml("LinearClassifier", linear::make_classifier),
    ml("LinearRegressor", linear::make_regressor),
    ml("SVMClassifier", svm::make_classifier),
    ml("SVMRegressor", svm::make_regressor),
    ml("TreeEnsemble", trees::make_ensemble),
    ml("TreeEnsembleClassifier", trees::make_classifier),
    ml("TreeEnsembleRegressor", trees::make_regressor),
    // Features.
    ml("ArrayFeatureExtractor", features::make_extractor),
    ml("Binarizer", features::make_binarizer),
    ml("FeatureVectorizer", features::make_vectorizer),
    ml("Imputer", features::make_imputer),
    ml("Normalizer", features::make_normalizer),
    ml("Scaler", features::make_scaler),
    // Categories.
    ml("CategoryMapper", encode::make_mapper),
    ml("LabelEncoder", encode::make_encoder),
    ml("OneHotEncoder", encode::make_one_hot),
    // Maps.
    ml("CastMap", maps::make_cast),
    ml("DictVectorizer", maps::make_vectorizer),
    ml("ZipMap", maps::make_zip),
];
