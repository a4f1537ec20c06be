// Numbers with their units, as people read them.

/** Bytes in the unit that fits: "3.90 GB", "412 MB", "17 kB". */
export function gigabytes(bytes) {
  if (bytes >= 1e11) return `${Math.round(bytes / 1e9)} GB`;
  if (bytes >= 1e10) return `${(bytes / 1e9).toFixed(1)} GB`;
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}
