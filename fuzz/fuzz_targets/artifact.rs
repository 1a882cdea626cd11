//! Artifacts: the archive itself, and its compressed form.
#![no_main]

use std::path::Path;

use dunlin::deploy::artifact::Artifact;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("dist/fuzz-1.0.tar.zst");
    let _ = Artifact::parse(path, data);
    // Mutations of compressed bytes rarely reach the archive; these always do.
    let packed = zstd::bulk::compress(data, 1).expect("compression in memory");
    if let Ok(unpacked) = Artifact::parse(path, &packed) {
        for (digest, _) in unpacked.artifact.manifest.files.iter().flat_map(|file| file.contents()) {
            assert!(unpacked.contents.has_content(digest), "a file of the manifest has no content");
        }
    }
});
