/* Pure, either side: judges the region of the LUKS header, of whose bytes nothing is read here. */
#include "amend/keys.h"

#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

/* The host looks at what lies within its reach, and no LUKS1 header has more. */
#define REGION_MAX (UINT64_C(64) << 20)

static bool refuse_region(struct amendment *amendment)
{
    const struct qcow2_header *h = &amendment->image.header;
    return refuse(amendment->image.file.verdict, REFUSAL_LUKS_REGION, AMEND_ERROR_ENCRYPTION,
                  h->crypto_offset, h->crypto_size, amendment->image.file.io->size);
}

bool check_luks_region(struct amendment *amendment)
{
    struct qcow2_image *image = &amendment->image;
    const struct qcow2_header *h = &image->header;
    struct refcounts *counts = &amendment->books.counts;
    if (h->crypt_method != QCOW2_CRYPT_LUKS)
        return refuse(image->file.verdict,
                      h->crypt_method ? REFUSAL_NOT_LUKS : REFUSAL_NOT_ENCRYPTED,
                      AMEND_ERROR_ENCRYPTION, 0, 0, 0);
    if (h->crypto_size == 0 || h->crypto_size > REGION_MAX ||
        !inside_image(image, h->crypto_offset, h->crypto_size))
        return refuse_region(amendment);
    uint64_t end = h->crypto_offset + h->crypto_size; /* without overflow: it is inside the image */
    if (!start_refcounts(counts, image, INSTAR_PHASE_PREPARE))
        return false;
    for (uint64_t at = h->crypto_offset; at < end; at += h->cluster_size)
        if (!is_exclusive(counts, at, AMEND_USE_CRYPTO_HEADER))
            return false;
    return true;
}
