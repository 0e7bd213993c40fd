//! Weights in files.

use eranos_base::SeededEntropy;
use eranos_nn::{
    TensorError,
    weights::{load, save},
};
use safetensors::{Dtype, tensor::TensorView};

use crate::{bits, cnn, reference::small_network};

#[test]
fn weights_come_back_bit_for_bit() {
    let network = cnn();
    let parameters = network.initialise(&mut SeededEntropy::new(41));
    let bytes = save(&network, &parameters).expect("length");
    assert_eq!(bits(&load(&network, &bytes).expect("own file")), bits(&parameters));
    assert!(matches!(save(&network, &parameters[1..]), Err(TensorError::Length { .. })));
}

#[test]
fn another_model_s_weights_are_refused_by_name() {
    let network = small_network();
    let file = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).expect("view")));
        safetensors::serialize(views, None).expect("serialize")
    };
    let zeros = |n: usize| vec![0_u8; n];
    let kernel = ("l1/kernel", Dtype::F32, &[3, 2][..], zeros(24));
    let bias = ("l1/bias", Dtype::F32, &[2][..], zeros(8));
    let check = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| load(&network, &file(tensors)).map(drop);
    let name = |name: &str| name.to_owned();
    assert_eq!(check(&[kernel.clone(), bias.clone()]), Ok(()));
    assert_eq!(check(std::slice::from_ref(&kernel)), Err(TensorError::Missing { name: name("l1/bias") }));
    let more = ("l2/kernel", Dtype::F32, &[1][..], zeros(4));
    assert_eq!(check(&[kernel.clone(), bias.clone(), more]), Err(TensorError::Unknown { name: name("l2/kernel") }));
    let turned = ("l1/kernel", Dtype::F32, &[2, 3][..], zeros(24));
    assert!(matches!(check(&[turned, bias.clone()]), Err(TensorError::Shape { .. })));
    let wide = ("l1/bias", Dtype::F64, &[2][..], zeros(16));
    assert!(matches!(check(&[kernel.clone(), wide]), Err(TensorError::Type { .. })));
    let nan = ("l1/bias", Dtype::F32, &[2][..], [0.0_f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect());
    assert_eq!(check(&[kernel, nan]), Err(TensorError::NonFinite { name: name("l1/bias") }));
}

#[test]
fn damaged_files_are_refused() {
    let network = small_network();
    let bytes = save(&network, &vec![0.5; network.n_parameters()]).expect("length");
    for len in 0..bytes.len() {
        assert!(load(&network, &bytes[..len]).is_err(), "cut to {len}");
    }
    assert!(load(&network, &[&bytes[..], &[0]].concat()).is_err());
    let mut claimed = bytes;
    claimed[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load(&network, &claimed).is_err());
}
