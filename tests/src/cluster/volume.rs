//! What can happen to a broker's volume: it is lost, goes back in time, is mixed up with another, is full, or is slow.
//!
//! Full and slow volumes are file systems of their own on loop devices, which takes root and the programs `mkfs.ext4`,
//! `mount` and `fsfreeze`. Frozen, a file system holds back every write and sync, as a disk does that does not answer.

use super::Cluster;
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("start {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the harness are text")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().expect("a file has a name");
            std::fs::copy(&path, to.join(name)).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Writes until nothing more fits.
fn append_to_the_last_byte(mut file: File) -> anyhow::Result<()> {
    file.seek(SeekFrom::End(0)).context("go to the end of the filler")?;
    let mut piece = vec![0; 64 << 10];
    while !piece.is_empty() {
        match file.write_all(&piece).and_then(|()| file.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(error) => return Err(error).context("write the filler"),
        }
    }
    Ok(())
}

/// A file system of its own in the place of a broker's data directory. Unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    at: PathBuf,
    image: PathBuf,
}

impl Volume {
    /// Makes and mounts one of `mib` MiB for a broker that has not been started yet.
    ///
    /// # Errors
    /// When this user or system can't; nothing is left behind then.
    pub fn mount(at: &Path, mib: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at).context("make the place of the volume")?;
        let volume = Self { at: at.to_owned(), image: at.with_extension("img") };
        File::create(&volume.image).and_then(|file| file.set_len(mib << 20)).context("make the volume")?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&volume.image)])?;
        run("mount", &["-o", "loop", text(&volume.image), text(&volume.at)])?;
        Ok(volume)
    }

    /// Returns whether volumes can be mounted and frozen here.
    ///
    /// # Errors
    /// Says why not.
    pub fn possible(directory: &Path) -> anyhow::Result<()> {
        let volume = Self::mount(&directory.join("data-trial"), 8)?;
        volume.freeze()?;
        volume.thaw()
    }

    /// Holds every write back.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn freeze(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["-f", text(&self.at)])
    }

    /// Lets writes go on.
    ///
    /// # Errors
    /// When the system refuses, e.g. because it is not frozen.
    pub fn thaw(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["-u", text(&self.at)])
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Takes all room but `left` bytes.
    ///
    /// # Errors
    /// When there is less left already.
    pub fn fill(&self, left: u64) -> anyhow::Result<()> {
        let free = rustix::fs::statvfs(&self.at).context("ask for the room left")?;
        let bytes =
            (free.f_bavail * free.f_frsize).checked_sub(left).context("there is less room already")?;
        let filler = File::create(self.filler()).context("make the filler")?;
        // The file system needs some of the room itself, and may give back less than it says.
        let most = bytes.saturating_sub(1 << 20);
        rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, most.max(1))
            .context("take the room")?;
        if left == 0 {
            append_to_the_last_byte(filler)?;
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn clear(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.filler()).context("remove the filler")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A volume that is not frozen, not mounted or not there any more is no reason to complain.
        let _ = self.thaw();
        let _ = run("umount", &["-l", text(&self.at)]);
        let _ = std::fs::remove_file(&self.image);
    }
}

impl Cluster {
    /// Does something to the volume of a broker.
    ///
    /// # Errors
    /// Those of `act`, and when the settings asked for no volumes.
    pub fn volume(&self, id: u32, act: impl FnOnce(&Volume) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let brokers = self.lock();
        act(brokers.get(&id).and_then(|broker| broker.volume.as_ref()).context("a volume of its own")?)
    }

    fn aside(&self, id: u32) -> PathBuf {
        self.dir().join(format!("copy-of-data{id}"))
    }

    /// Copies the volume of a broker that does not run.
    ///
    /// # Errors
    /// When it can't be copied.
    ///
    /// # Panics
    /// When the broker runs.
    pub fn copy_volume(&self, id: u32) -> anyhow::Result<()> {
        assert!(!self.is_running(id), "a volume in use is not copied");
        copy(&self.place(id).data, &self.aside(id))
    }

    /// Puts the copy made before in the place of the volume of a broker that does not run.
    ///
    /// # Errors
    /// When it can't be.
    pub fn roll_volume_back(&self, id: u32) -> anyhow::Result<()> {
        self.wipe(id);
        std::fs::rename(self.aside(id), self.place(id).data).context("put the copy in place")
    }

    /// Exchanges the volumes of two brokers that do not run.
    ///
    /// # Errors
    /// When they can't be.
    ///
    /// # Panics
    /// When one of them runs.
    pub fn swap_volumes(&self, one: u32, other: u32) -> anyhow::Result<()> {
        assert!(!self.is_running(one) && !self.is_running(other), "volumes in use are not exchanged");
        let (first, second, between) = (self.place(one).data, self.place(other).data, self.aside(one));
        std::fs::rename(&first, &between).context("move the first volume aside")?;
        std::fs::rename(&second, &first).context("move the second volume")?;
        std::fs::rename(&between, &second).context("move the first volume")
    }

    /// Ends all processes and moves everything of this cluster to `to`, so that it outlives the harness.
    ///
    /// # Errors
    /// When it can't be moved.
    pub fn keep(&self, to: &Path) -> anyhow::Result<()> {
        for id in self.ids().into_iter().filter(|id| self.is_running(*id)) {
            self.kill9(id);
        }
        self.kill_discovery();
        std::fs::create_dir_all(to.parent().unwrap_or(to)).context("make the place to keep things")?;
        run("cp", &["-r", "--sparse=always", text(self.dir()), text(to)])
    }
}
