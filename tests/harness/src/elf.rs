//! Whether a program is static: read from its ELF headers, as `ldd` would say.

use anyhow::{Context as _, ensure};

/// Program header: path of the dynamic loader.
const PT_INTERP: u32 = 3;
/// Program header: the dynamic section.
const PT_DYNAMIC: u32 = 2;
/// Dynamic entry: a shared library is needed.
const DT_NEEDED: u64 = 1;

/// Fails with what makes a 64-bit little-endian program depend on files beside it.
pub fn ensure_static(program: &[u8]) -> anyhow::Result<()> {
    ensure!(
        program.get(..6) == Some(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF file"
    );
    let table = offset(u64_at(program, 32)?)?;
    let size = usize::from(u16_at(program, 54)?);
    let count = usize::from(u16_at(program, 56)?);
    for number in 0..count {
        let header = table + number * size;
        let kind = u32_at(program, header)?;
        ensure!(kind != PT_INTERP, "it asks for a dynamic loader");
        if kind == PT_DYNAMIC {
            let (start, length) = (u64_at(program, header + 8)?, u64_at(program, header + 32)?);
            let end = offset(start + length)?;
            for entry in (offset(start)?..end).step_by(16) {
                ensure!(
                    u64_at(program, entry)? != DT_NEEDED,
                    "it needs a shared library"
                );
            }
        }
    }
    Ok(())
}

fn offset(value: u64) -> anyhow::Result<usize> {
    Ok(usize::try_from(value)?)
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    let end = at.checked_add(N).context("not a complete ELF file")?;
    let part = file.get(at..end).context("not a complete ELF file")?;
    Ok(part.try_into()?)
}

fn u16_at(file: &[u8], at: usize) -> anyhow::Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

fn u32_at(file: &[u8], at: usize) -> anyhow::Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn u64_at(file: &[u8], at: usize) -> anyhow::Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamic() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(ensure_static(&own).is_err());
        assert!(ensure_static(b"\x7fELF").is_err());
    }

    #[test]
    fn headers_without_loader_and_libraries_are_static() {
        let mut program = vec![0; 64 + 56 + 32];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[32] = 64; // program headers
        program[54] = 56;
        program[56] = 1;
        program[64] = 2; // PT_DYNAMIC
        program[64 + 8] = 120;
        program[64 + 32] = 32;
        ensure_static(&program).unwrap();
        program[120] = 1; // DT_NEEDED
        assert!(ensure_static(&program).is_err());
        program[64] = 3; // PT_INTERP
        assert!(ensure_static(&program).is_err());
    }
}
