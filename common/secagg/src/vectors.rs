//! The primitives exactly as this crate calls them, held against the vectors of their RFCs and against Project
//! Wycheproof's, which collect what implementations got wrong.

use eranos_base::{Signature, SigningKey, VerifyingKey, signing::first_unverified};
use ring::aead;
use wycheproof::{TestResult, aead as gcm, eddsa, hkdf, xdh};

use crate::{
    AgreementKey,
    agreement::{AgreementSecret, derive},
    share_keys::sealing_key,
};

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a vector of this length")
}

fn from_hex<const N: usize>(text: &str) -> [u8; N] {
    array(&hex::decode(text).expect("hex"))
}

#[test]
fn rfc_7748_second_vector_and_section_6_1() {
    let k = from_hex("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d");
    let u: [u8; 32] = from_hex("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493");
    // Its top bit is set: X25519 ignores it, this protocol takes no such key.
    assert!(AgreementKey::from_bytes(u).is_err());
    let shared = AgreementSecret::from_bytes(&k).agree(&AgreementKey::unchecked(u)).expect("not zero");
    assert_eq!(hex::encode(*shared), "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957");

    let alice = from_hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = from_hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let (alice, bob) = (AgreementSecret::from_bytes(&alice), AgreementSecret::from_bytes(&bob));
    let public = |secret: &AgreementSecret| hex::encode(secret.public().as_bytes());
    assert_eq!(public(&alice), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    assert_eq!(public(&bob), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
    assert_eq!(hex::encode(*alice.agree(&bob.public()).expect("not zero")), shared);
    assert_eq!(hex::encode(*bob.agree(&alice.public()).expect("not zero")), shared);
}

#[test]
fn rfc_8032_section_7_1() {
    let check = |seed: &str, public: &str, message: &str, signature: &str| {
        let key = SigningKey::from_seed(&from_hex(seed));
        let message = hex::decode(message).expect("hex");
        assert_eq!(key.verifying_key().to_string(), public);
        assert_eq!(key.sign(&message).to_string(), signature);
        let signed = (key.verifying_key(), message, Signature(from_hex(signature)));
        assert_eq!((signed.0.check(), signed.0.verify(&signed.1, &signed.2)), (Ok(()), Ok(())));
        assert_eq!(first_unverified(&[signed]), None);
    };
    check(
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24\
         655141438e7a100b",
    );
    check(
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee\
         b00d291612bb0c00",
    );
    check(
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d\
         c027beceea1ec40a",
    );
    check(
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e\
         2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17a\
         d9bef1177331a704",
    );
}

#[test]
fn rfc_5869_test_cases_2_and_3() {
    let range = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
    let okm = derive::<82>(&range(0x00, 0x4f), &range(0x60, 0xaf), &[&range(0xb0, 0xff)]);
    let expect = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c\
                  2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87";
    assert_eq!(hex::encode(*okm), expect);
    let okm = derive::<42>(&[0x0b; 22], &[], &[]);
    let expect = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(hex::encode(*okm), expect);
}

/// How many vectors were tried; a set that is empty would prove nothing.
fn enough(what: &str, n_tried: usize, at_least: usize) {
    assert!(n_tried >= at_least, "{n_tried} vectors of {what}");
}

#[test]
fn wycheproof_x25519() {
    use xdh::TestFlag::{LowOrderPublic, NonCanonicalPublic, ZeroSharedSecret};
    let (mut n_agreed, mut n_refused) = (0, 0);
    let set = xdh::TestSet::load(xdh::TestName::X25519).expect("loads");
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (secret, u) = (AgreementSecret::from_bytes(&array(&test.private_key)), array::<32>(&test.public_key));
        let expect: [u8; 32] = array(&test.shared_secret);
        // Past the check of keys the function is X25519 for any of them, but for a result of zero.
        let shared = secret.agree(&AgreementKey::unchecked(u)).map(|shared| *shared);
        assert_eq!(shared, (expect != [0; 32]).then_some(expect), "{}", test.tc_id);
        match AgreementKey::from_bytes(u) {
            Ok(_) => n_agreed += usize::from(shared.is_some()),
            Err(_) => {
                let flags = [LowOrderPublic, NonCanonicalPublic, ZeroSharedSecret];
                assert!(flags.iter().any(|flag| test.flags.contains(flag)), "{}: {:?}", test.tc_id, test.flags);
                n_refused += 1;
            }
        }
        if AgreementKey::from_bytes(u).is_ok() {
            assert!(shared.is_some(), "{}: a key that leads to zero passes", test.tc_id);
        }
    }
    enough("x25519", n_agreed, 300);
    enough("x25519, refused", n_refused, 20);
}

#[test]
fn wycheproof_ed25519() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("loads");
    let (mut valid, mut n_invalid) = (Vec::new(), 0);
    for group in &set.test_groups {
        let key = VerifyingKey(array(&group.key.pk));
        for test in &group.tests {
            // Of another length it cannot even be read.
            let Ok(signature) = test.sig.as_slice().try_into().map(Signature) else {
                assert_eq!(test.result, TestResult::Invalid);
                continue;
            };
            let signed = (key, test.msg.to_vec(), signature);
            let is_valid = test.result == TestResult::Valid;
            assert_eq!(
                key.check().and_then(|()| key.verify(&test.msg, &signature)).is_ok(),
                is_valid,
                "{}",
                test.tc_id
            );
            assert_eq!(first_unverified(std::slice::from_ref(&signed)).is_none(), is_valid, "{}", test.tc_id);
            if is_valid {
                valid.push(signed);
                continue;
            }
            // Among valid ones it is found, too.
            let mut all = valid.clone();
            all.push(signed);
            assert_eq!(first_unverified(&all), Some(valid.len()), "{}", test.tc_id);
            n_invalid += 1;
        }
    }
    assert_eq!(first_unverified(&valid), None);
    enough("ed25519", valid.len(), 60);
    enough("ed25519, invalid", n_invalid, 30);
}

#[test]
fn wycheproof_aes_256_gcm() {
    let set = gcm::TestSet::load(gcm::TestName::AesGcm).expect("loads");
    let (mut n_valid, mut n_invalid) = (0, 0);
    // Shares are sealed under keys of 256 bits with nonces of 96 and tags of 128, and nothing else.
    let groups =
        set.test_groups.iter().filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
    for test in groups.flat_map(|group| &group.tests) {
        let key = sealing_key(&array(&test.key));
        let nonce = || aead::Nonce::assume_unique_for_key(array(&test.nonce));
        let mut sealed = [&test.ct[..], &test.tag[..]].concat();
        let opened = key.open_in_place(nonce(), aead::Aad::from(&test.aad[..]), &mut sealed);
        match test.result {
            TestResult::Valid => {
                assert_eq!(opened.as_deref(), Ok(&test.pt[..]), "{}", test.tc_id);
                let mut plaintext = test.pt.to_vec();
                let tag = key.seal_in_place_separate_tag(nonce(), aead::Aad::from(&test.aad[..]), &mut plaintext);
                assert_eq!((&plaintext[..], tag.expect("seals").as_ref()), (&test.ct[..], &test.tag[..]));
                n_valid += 1;
            }
            _ => {
                assert!(opened.is_err(), "{}", test.tc_id);
                n_invalid += 1;
            }
        }
    }
    enough("AES-256-GCM", n_valid, 30);
    enough("AES-256-GCM, invalid", n_invalid, 20);
}

#[test]
fn wycheproof_hkdf_sha256() {
    const LEN_MAX: usize = 255 * 32;
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).expect("loads");
    let mut n_tried = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        if test.size > LEN_MAX {
            // More than can be derived; here that does not compile.
            assert_eq!(test.result, TestResult::Invalid);
            continue;
        }
        // The length stands in no block, so what is shorter is the beginning of the longest.
        let okm = derive::<LEN_MAX>(&test.ikm, &test.salt, &[&test.info]);
        assert_eq!(okm[..test.size], test.okm[..], "{}", test.tc_id);
        n_tried += 1;
    }
    enough("HKDF-SHA256", n_tried, 70);
}
