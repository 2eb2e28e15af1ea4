//! Made-up frames for the loaded program.

use std::io;

use agent_ebpf::{class::Class, layout::ProbeNote, verdict::Verdict};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};

use super::page::Page;
use crate::datapath::{DatapathError, Probe};

const NOTE: usize = size_of::<ProbeNote>();
/// The context of a test run, `struct xdp_md`: data, end, metadata, interface, queue, interface at egress.
const CONTEXT_WORDS: usize = 6;

/// Runs `program` on `frame`, as if it came in on `interface`.
pub(super) fn run(
    program: &Xdp,
    page: &Page,
    frame: &[u8],
    interface: Option<u32>,
) -> Result<Probe, DatapathError> {
    let refused = |source| DatapathError::Probe { source };
    let nonce = getrandom::u64().map_err(|source| DatapathError::Random { source })? | 1;
    let mut input = nonce.to_ne_bytes().to_vec();
    input.resize(NOTE, 0);
    input.extend_from_slice(frame);
    let length = u32::try_from(input.len())
        .map_err(|error| refused(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let data = u32::try_from(NOTE).unwrap_or(u32::MAX);
    let words: [u32; CONTEXT_WORDS] = [data, length, 0, interface.unwrap_or(0), 0, 0];
    let context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut output = vec![0; input.len()];

    page.set_probe(nonce);
    let ran = program.test_run(TestRunOptions {
        data_in: Some(&input),
        data_out: Some(&mut output),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    });
    page.set_probe(0);
    ran.map_err(|error| refused(io::Error::other(error)))?;
    read(&output).ok_or_else(|| {
        refused(io::Error::new(
            io::ErrorKind::InvalidData,
            "the program gave no answer",
        ))
    })
}

fn read(output: &[u8]) -> Option<Probe> {
    let word = |index: usize| -> Option<u64> {
        let bytes = output.get(index * 8..index * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let [verdict, class, is_monitored, ..] = word(1)?.to_le_bytes();
    // Generations are numbered from 1.
    let generation = word(2)?;
    Some(Probe {
        verdict: Verdict::from_index(verdict.into()).filter(|_| generation != 0)?,
        class: Class(class),
        generation,
        monitored: is_monitored != 0,
    })
}
