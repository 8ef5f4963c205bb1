/* Pure, either side: what lies where in the untrusted image. */
#include "qcow2/image.h"

#include "bits.h"
#include "qcow2/qcow2.h"

void open_qcow2(struct qcow2_image *image, struct qcow2_memory *memory, const struct image_io *io,
                struct verdict *verdict, uint64_t work_max)
{
    *image = (struct qcow2_image){
        .file = open_image(io, verdict, work_max),
        .memory = memory,
        .structures = {memory->structures, WINDOW_SIZE, INSTAR_PHASE_PREPARE, 0, .loaded = false},
    };
}

const uint8_t *find_along(const struct qcow2_image *image, uint64_t offset)
{
    for (uint32_t i = 0; i < READ_ALONG_MAX; i++)
        if (image->along[i] && image->along[i] == offset)
            return image->memory->along[i];
    return 0;
}

bool read_sector(struct qcow2_image *image, uint64_t offset, const uint8_t **sector)
{
    *sector = find_along(image, offset);
    if (*sector)
        return true;
    *sector = image->memory->table;
    return read_image(&image->file, INSTAR_PHASE_PREPARE, offset, image->memory->table,
                      SECTOR_SIZE);
}

bool inside_image(const struct qcow2_image *image, uint64_t offset, uint64_t length)
{
    uint64_t cluster_size = image->header.cluster_size;
    uint64_t end = round_up(image->file.io->size, cluster_size);
    return offset >= cluster_size && offset < end && length <= end - offset;
}

bool is_cluster(const struct qcow2_image *image, uint64_t offset)
{
    return offset % image->header.cluster_size == 0 &&
           inside_image(image, offset, image->header.cluster_size);
}
