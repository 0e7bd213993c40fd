//! The same formats through the eyes of other implementations.

use std::{path::PathBuf, sync::Arc};

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use eranos_base::{Digest, SigningKey};
use eranos_ledger::{
    Checkpoint, LedgerSigner, LogWriter, SignedCheckpoint, SignedNote,
    tile::{Folder, Tile, TileKind, TileSource},
    tree,
};
use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{Hash, TileHashReader, TileReader};

use crate::support::Federation;

fn signer() -> LedgerSigner {
    LedgerSigner::new("ledger.example.org".parse().expect("name"), SigningKey::from_seed(&[1; 32]))
}

fn known(signer: &LedgerSigner) -> VerifierList {
    let verifier = StandardVerifier::new(&signer.ledger_key().to_string()).expect("their parser takes our key");
    VerifierList::new(vec![Box::new(verifier)])
}

#[test]
fn roots_and_proofs_equal_those_of_ct_merkle() {
    let mut theirs = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
    let mut ours = tree::Frontier::default();
    let mut roots = vec![tree::empty_root()];
    for size in 1..=130u64 {
        let leaf = size.to_le_bytes().to_vec();
        ours.push(tree::leaf_hash(&leaf));
        theirs.push(leaf.clone());
        roots.push(ours.root());
        let root = theirs.root();
        assert_eq!(root.as_bytes().as_slice(), ours.root().0, "{size} leaves");
        for index in (0..size).filter(|index| index % 5 == size % 5) {
            let proof = digests(theirs.prove_inclusion(index as usize).as_bytes());
            let hash = tree::leaf_hash(&(index + 1).to_le_bytes());
            assert_eq!(tree::verify_inclusion(&hash, index, size, &ours.root(), &proof), Ok(()));
        }
        for old in (1..size).filter(|old| old % 5 == size % 5) {
            let proof = digests(theirs.prove_consistency((size - old) as usize).as_bytes());
            assert_eq!(tree::verify_consistency(old, &roots[old as usize], size, &ours.root(), &proof), Ok(()));
        }
    }
}

fn digests(bytes: &[u8]) -> Vec<Digest> {
    bytes.chunks(32).map(|hash| Digest(hash.try_into().expect("32 bytes"))).collect()
}

#[test]
fn our_notes_verify_with_signed_note_and_theirs_with_ours() {
    let signer = signer();
    let checkpoint =
        Checkpoint { origin: "ledger.example.org".parse().expect("name"), size: 7, root: Digest::of(b"root") };
    let ours = SignedCheckpoint::sign(checkpoint.clone(), &signer).expect("signs");
    let note = Note::from_bytes(ours.note().encode().as_bytes()).expect("their parser takes our note");
    let (verified, unverified) = note.verify(&known(&signer)).expect("their verifier takes our signature");
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    let theirs = tlog_tiles::Checkpoint::from_bytes(note.text()).expect("their parser takes our checkpoint");
    assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), ("ledger.example.org", 7, checkpoint.root.0));
    assert_eq!(theirs.extension(), "");

    // The same key in their form of a private key: our public line with the seed in place of the key.
    let line = signer.ledger_key().to_string();
    let key_id = line.split('+').nth(1).expect("a key id");
    let secret = [&[1u8][..], &[1; 32]].concat();
    let secret = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret);
    let their_signer =
        StandardSigner::new(&format!("PRIVATE+KEY+ledger.example.org+{key_id}+{secret}")).expect("a key");
    let mut note = Note::new(&theirs.to_bytes(), &[]).expect("a note");
    note.add_sigs(&[&their_signer]).expect("signs");
    assert_eq!(SignedNote::parse(&note.to_bytes()).expect("ours").encode(), ours.note().encode());
    assert_eq!(SignedCheckpoint::open(&note.to_bytes(), &signer.ledger_key()), Ok(ours));
}

#[test]
fn paths_are_those_of_tlog_tiles() {
    // Their paths, like Go's, carry the tile height, which the C2SP layout leaves out.
    for index in [0, 1, 999, 1000, 1_234_067, 999_999, 1_000_000, 123_456_789_012] {
        for width in [1, 7, 255, 256] {
            for level in 0..6 {
                let theirs = tlog_tiles::Tile::new(8, level, index, width.into(), false).path();
                let ours = Tile { kind: TileKind::Hashes { level }, index, width };
                assert_eq!(theirs.replace("tile/8/", "tile/"), ours.path());
            }
        }
    }
}

/// Our folder as their source of tiles.
struct OurTiles(Folder);

impl TileReader for OurTiles {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            let tile = Tile::parse(&tile.path().replace("tile/8/", "tile/")).expect("a path of ours");
            self.0.read(&tile).map_err(|_| tlog_tiles::Error::InvalidTile)
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[test]
fn tlog_tiles_reads_and_proves_a_log_that_we_wrote() {
    let dir = tempfile::tempdir().expect("a folder");
    let federation = Federation::with_history();
    // A thousand leaves: full tiles, a partial one, and a level above. Only the shape matters, so they repeat.
    let entries: Vec<_> = federation.encoded().iter().cycle().take(1000).cloned().collect();
    let mut writer = LogWriter::open(dir.path(), Arc::new(signer())).expect("opens");
    writer.append_all(0, &entries).expect("appends");
    let leaves: Vec<Vec<u8>> = entries.into_iter().map(|entry| entry.leaf).collect();
    let root = Hash(writer.checkpoint().checkpoint().root.0);
    let tiles = OurTiles(Folder::new(PathBuf::from(dir.path())));
    let reader = TileHashReader::new(1000, root, &tiles);
    for index in [0u64, 255, 256, 700, 999] {
        // Their reader authenticates every tile against the root before it answers.
        let theirs = tlog_tiles::prove_record(1000, index, &reader).expect("their proof");
        let hash = tlog_tiles::record_hash(&leaves[index as usize]);
        tlog_tiles::check_record(&theirs, 1000, root, index, hash).expect("their check");
        let ours = writer.inclusion_proof(index, 1000).expect("our proof");
        assert_eq!(
            ours.iter().map(|hash| hash.0).collect::<Vec<_>>(),
            theirs.iter().map(|hash| hash.0).collect::<Vec<_>>()
        );
    }
    for old in [1u64, 255, 256, 257, 512, 999] {
        let theirs = tlog_tiles::prove_tree(1000, old, &reader).expect("their proof");
        let ours = writer.consistency_proof(old, 1000).expect("our proof");
        assert_eq!(
            ours.iter().map(|hash| hash.0).collect::<Vec<_>>(),
            theirs.iter().map(|hash| hash.0).collect::<Vec<_>>()
        );
        let old_root = Hash(tree::root(&leaves[..old as usize]).0);
        tlog_tiles::check_tree(&theirs, 1000, root, old, old_root).expect("their check");
    }
}
