// Reads the base and the changes of a disk as Xen Orchestra's backup does: its NBD client, 2 MiB at a time,
// and of the changes the blocks of which the bitmap has a bit (`XapiVhdCbt.mjs` of xen-orchestra).
//
//   node read.mjs <directory of the programs> <path of NbdTcpClient.mjs>
import assert from 'node:assert'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { pathToFileURL } from 'node:url'

const [, , built, path] = process.argv
const { default: NbdClient } = await import(pathToFileURL(path))
const MIB = 1 << 20
const BLOCK = 2 * MIB
const SIZE = 100 * 1024 * MIB
const SR = '0f0e0d0c-0000-4000-8000-0000000000a0'

const root = mkdtempSync(`/dev/shm/xo-`)
mkdirSync(`${root}/sr`)
const env = {
  ...process.env,
  XAPI_RAM_SR_ROOT: `${root}/sr`,
  XAPI_RAM_MOUNT: 'never',
  XAPI_RAM_CONTROL_DIR: `${root}/ctl`,
  XAPI_RAM_SYSLOG: `${root}/log`,
}
const call = (plugin, method, params) => {
  const input = JSON.stringify({ dbg: 'xo', ...params })
  return JSON.parse(execFileSync(`${built}/${plugin}`, [method, '--json'], { input, env }))
}
const volume = (method, params) => call('volume-plugin', method, params)

// Plugs a disk; returns the URI of its server.
const plugged = []
const plug = (key, domain, mode) => {
  const place = { uri: `ram://${SR}/${key}`, domain }
  const attached = call('datapath-plugin', 'Datapath.attach', place)
  call('datapath-plugin', `Datapath.${mode}`, place)
  plugged.push(place)
  const uri = attached.implementations.find(([kind]) => kind === 'Nbd')[1].uri
  return /^nbd:unix:([^:]*):exportname=(.*)$/.exec(uri).slice(1)
}

// Reads blocks with the client, through TCP as xapi-nbd serves; how many bytes came.
const read = async ([socket, exportname], blocks) => {
  let received = 0
  const relay = createServer(tcp => {
    const unix = connect(socket)
    unix.on('data', part => (received += part.length))
    unix.pipe(tcp).pipe(unix)
    tcp.on('error', () => unix.destroy())
    unix.on('error', () => tcp.destroy())
  })
  await new Promise(resolve => relay.listen(0, '127.0.0.1', resolve))
  const client = new NbdClient({ address: '127.0.0.1', port: relay.address().port, exportname })
  await client.connect()
  assert.equal(Number(client.exportSize), SIZE)
  const data = new Map()
  for (const index of blocks) {
    data.set(index, await client.readBlock(index, BLOCK))
  }
  await client.disconnect()
  relay.close()
  return { received, data }
}

const write = ([socket, name], offset, length, byte) =>
  execFileSync('qemu-io', [
    '-f', 'raw', '-c', `write -P ${byte} ${offset} ${length}`, `nbd+unix:///${name}?socket=${socket}`,
  ])

try {
  const configuration = volume('SR.create', {
    uuid: SR, name: 'xo', description: '', configuration: { size: '256MiB' },
  })
  volume('SR.attach', { configuration })
  const { key } = volume('Volume.create', {
    sr: SR, name: 'd', description: '', size: SIZE, sharable: false,
  })
  const disk = plug(key, '1', 'activate')
  write(disk, 50 * 1024 * MIB, 8 * MIB, 5)
  const base = volume('Volume.snapshot', { sr: SR, key }).key
  // A mebibyte that lies within one of the blocks of 2 MiB.
  const at = 70 * 1024 * MIB + 512 * 1024
  write(disk, at, MIB, 7)
  const snapshot = volume('Volume.snapshot', { sr: SR, key }).key

  const first = (50 * 1024 * MIB) / BLOCK
  const full = await read(plug(base, '2', 'activate_readonly'), [first, first + 3, first + 4])
  assert.ok(full.data.get(first).every(byte => byte === 5))
  assert.ok(full.data.get(first + 3).every(byte => byte === 5))
  assert.ok(full.data.get(first + 4).every(byte => byte === 0))

  const changed = volume('Volume.list_changed_blocks', {
    sr: SR, key: base, key2: snapshot, offset: 0, length: SIZE,
  })
  const bitmap = Buffer.from(changed.bitmap, 'base64')
  assert.equal(changed.granularity, 65536)
  const blocks = []
  for (let index = 0; index * BLOCK < SIZE; index++) {
    if (bitmap.readUInt32BE(index * 4) !== 0) {
      blocks.push(index)
    }
  }
  assert.deepEqual(blocks, [Math.floor(at / BLOCK)])
  const delta = await read(plug(snapshot, '3', 'activate_readonly'), blocks)
  const data = delta.data.get(blocks[0])
  const begin = at % BLOCK
  assert.ok(data.subarray(begin, begin + MIB).every(byte => byte === 7))
  assert.ok(data.subarray(0, begin).every(byte => byte === 0))
  // The handshake and the heads of the replies come beside the data.
  assert.ok(delta.received <= BLOCK + 4096, `${delta.received} bytes`)
  console.log(`1 MiB changed of 100 GiB: ${delta.received} bytes were read, of ${blocks.length} block`)
  console.log('1 passed, 0 failed')
} finally {
  for (const place of plugged) {
    for (const method of ['deactivate', 'detach']) {
      call('datapath-plugin', `Datapath.${method}`, place)
    }
  }
  rmSync(root, { recursive: true })
}
