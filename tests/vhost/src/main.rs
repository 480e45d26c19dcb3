//! Puts load on a vhost-user-blk export as the benchmark's own generators do on NBD and on a ring, and
//! prints the number of requests and the seconds that they took.
//!
//! It is a package of its own: the client of virtio-blk (`blkio`) comes with versions of libraries that the
//! programs of the workspace do not have.

use std::{
    env, error,
    mem::MaybeUninit,
    time::{Duration, Instant},
};

use blkio::{Blkio, Completion, ReqFlags};

type Result<T> = std::result::Result<T, Box<dyn error::Error>>;

const USAGE: &str =
    "usage: vhost-load <socket> read|write random|sequential <bytes> <depth> <seconds>";
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [socket, direction, order, bytes, depth, seconds] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let (is_write, is_random) = (direction == "write", order == "random");
    let (bytes, depth): (usize, usize) = (bytes.parse()?, depth.parse()?);
    let time = Duration::from_secs_f64(seconds.parse()?);

    let mut disk = Blkio::new("virtio-blk-vhost-user")?;
    disk.set_str("path", socket)?;
    disk.connect()?;
    disk.set_i32("num-queues", 1)?;
    let mut queue = disk.start()?.queues.remove(0);
    let region = disk.alloc_mem_region((bytes * depth).next_multiple_of(64 << 10))?;
    disk.map_mem_region(&region)?;

    let places = disk.get_u64("capacity")? / bytes as u64;
    let (mut state, mut position) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    let mut place = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        position += 1;
        (if is_random { state } else { position }) % places * bytes as u64
    };
    let mut due: Vec<usize> = (0..depth).collect();
    let mut completions: Vec<MaybeUninit<Completion>> =
        (0..depth).map(|_| MaybeUninit::uninit()).collect();
    let (start, mut issued, mut answered) = (Instant::now(), 0_u64, 0_u64);
    loop {
        if start.elapsed() < time {
            for slot in due.drain(..) {
                let buffer = (region.addr + slot * bytes) as *mut u8;
                match is_write {
                    true => queue.write(place(), buffer, bytes, slot, ReqFlags::empty()),
                    false => queue.read(place(), buffer, bytes, slot, ReqFlags::empty()),
                }
                issued += 1;
            }
        }
        if answered == issued {
            break;
        }
        let count = queue.do_io(&mut completions, 1, Some(&mut PATIENCE.clone()), None)?;
        for completion in &mut completions[..count] {
            // SAFETY: `do_io` has filled as many completions as it says.
            let completion = unsafe { completion.assume_init_ref() };
            if completion.ret != 0 {
                return Err(format!("a request ends with {}", completion.ret).into());
            }
            due.push(completion.user_data);
            answered += 1;
        }
    }
    println!("{answered} {}", start.elapsed().as_secs_f64());
    Ok(())
}
