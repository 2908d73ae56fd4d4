// Files from a drop, a button or a folder.

const SKIPPED = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|DICOMDIR$)/i;

/** Return the files of a drop, those of folders too. */
export async function filesOfDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    if (!SKIPPED.test(entry.fullPath)) found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const inner of some) await walk(inner, found);
  }
}

/** Return the files of an input without those that systems put into every folder. */
export function filesOfInput(input) {
  return [...input.files].filter((file) => !SKIPPED.test(file.webkitRelativePath || file.name));
}

/** Whether several files belong to one sample: the images of a case, or the slices of a series. */
export function belongTogether(files, kind) {
  if (files.length < 2) return kind === "case";
  if (kind === "case") return true;
  return kind === "volume" && !files.every((file) => /\.nii(\.gz)?$/i.test(file.name));
}

const READS = {
  image: "Reads images, each by itself: DICOM, PNG, JPEG, TIFF, BMP, GIF or WebP.",
  volume: "Reads volumes: NIfTI, or the folder of a DICOM series.",
  slide: "Reads slides: SVS, NDPI, MRXS, DICOM or a tiled TIFF.",
  case: "Reads all images of one case together.",
  bag: "Reads the features of a slide's tiles: HDF5.",
};

/** Say what a model reads. */
export const readsInWords = (kind) => READS[kind] ?? "";
