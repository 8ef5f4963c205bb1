/* Pure, either side: walks the header extensions of the untrusted image ("Header extensions"). */
#include "qcow2/extensions.h"

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/header.h"
#include "qcow2/qcow2.h"

static void read_extension(const struct qcow2_image *image, uint32_t at,
                           struct extension *extension)
{
    const uint8_t *raw = image->memory->header + at;
    extension->offset = at;
    extension->type = load_be32(raw);
    extension->length = load_be32(raw + 4);
    extension->size =
        (uint32_t)round_up((uint64_t)QCOW2_EXTENSION_HEADER_SIZE + extension->length, 8);
}

bool next_extension(const struct qcow2_image *image, uint32_t *at, struct extension *extension)
{
    if (*at >= image->header.extensions_limit)
        return false;
    read_extension(image, *at, extension);
    *at += extension->size;
    return extension->type != QCOW2_EXTENSION_END;
}

struct header_text text_of(const struct qcow2_image *image, uint32_t offset, uint32_t size)
{
    struct header_text text = {offset, 0};
    while (text.length < size && image->memory->header[offset + text.length])
        text.length++;
    return text;
}

static bool check_bitmaps(struct qcow2_image *image, const struct extension *extension)
{
    struct qcow2_header *h = &image->header;
    const uint8_t *data = image->memory->header + extension->offset + QCOW2_EXTENSION_HEADER_SIZE;
    if (extension->length != QCOW2_BITMAPS_EXTENSION_SIZE)
        return false;
    /* Without its autoclear bit the extension is stale, and "must not be used". */
    if (!(h->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
        return true;
    h->nb_bitmaps = load_be32(data);
    h->bitmap_directory_size = load_be64(data + 8);
    h->bitmap_directory_offset = load_be64(data + 16);
    return h->nb_bitmaps > 0 && h->nb_bitmaps <= QCOW2_BITMAPS_MAX && load_be32(data + 4) == 0 &&
           h->bitmap_directory_size <= QCOW2_BITMAP_DIRECTORY_SIZE_MAX &&
           h->bitmap_directory_offset % h->cluster_size == 0;
}

static bool check_crypto(struct qcow2_image *image, const struct extension *extension)
{
    struct qcow2_header *h = &image->header;
    const uint8_t *data = image->memory->header + extension->offset + QCOW2_EXTENSION_HEADER_SIZE;
    if (h->crypt_method != QCOW2_CRYPT_LUKS || extension->length != QCOW2_CRYPTO_EXTENSION_SIZE)
        return false;
    uint64_t offset = load_be64(data), length = load_be64(data + 8);
    uint64_t end = round_up(image->file.io->size, h->cluster_size);
    uint64_t present = offset < end ? end - offset : 0;
    h->crypto_offset = offset;
    h->crypto_size = length;
    h->crypto_length = length < present ? length : present;
    return offset && offset % h->cluster_size == 0; /* at 0 is this header */
}

static bool check_extension(struct qcow2_image *image, const struct extension *extension)
{
    struct qcow2_header *h = &image->header;
    bool good = true;
    uint32_t reason = REFUSAL_EXTENSIONS, data = extension->offset + QCOW2_EXTENSION_HEADER_SIZE;
    if (extension->type == QCOW2_EXTENSION_BACKING_FORMAT) {
        good = extension->length <= QCOW2_BACKING_FORMAT_MAX;
        h->backing_format = text_of(image, data, extension->length);
    } else if (extension->type == QCOW2_EXTENSION_DATA_FILE) {
        h->data_file = text_of(image, data, extension->length);
    } else if (extension->type == QCOW2_EXTENSION_BITMAPS) {
        h->has_bitmaps = true;
        reason = REFUSAL_BITMAPS_EXTENSION;
        good = check_bitmaps(image, extension);
    } else if (extension->type == QCOW2_EXTENSION_CRYPTO) {
        reason = REFUSAL_CRYPTO_EXTENSION;
        good = check_crypto(image, extension);
    }
    if (!good)
        refuse(image->file.verdict, reason, AMEND_ERROR_PARSE_FAILED, extension->offset,
               extension->type, extension->length);
    return good;
}

/* Check one step of the walk; the end marker has a length, and must keep it, like any other. */
static bool parse_extension(struct qcow2_image *image, uint32_t at, struct extension *extension)
{
    uint32_t limit = image->header.extensions_limit;
    if (!load_header(image, (uint64_t)at + QCOW2_EXTENSION_HEADER_SIZE))
        return false;
    read_extension(image, at, extension);
    if (limit - at < QCOW2_EXTENSION_HEADER_SIZE ||
        extension->length > limit - at - QCOW2_EXTENSION_HEADER_SIZE) {
        refuse(image->file.verdict, REFUSAL_EXTENSIONS, AMEND_ERROR_PARSE_FAILED, at,
               extension->type, extension->length);
        return false;
    }
    return extension->type == QCOW2_EXTENSION_END ||
           (load_header(image, (uint64_t)at + extension->size) &&
            check_extension(image, extension));
}

bool parse_extensions(struct qcow2_image *image)
{
    struct qcow2_header *h = &image->header;
    struct extension extension;
    bool crypto = false, end = false;
    uint32_t at = h->header_length;
    h->extensions_limit =
        h->backing_file_offset ? (uint32_t)h->backing_file_offset : h->cluster_size;
    while (!end && at < h->extensions_limit) {
        if (!parse_extension(image, at, &extension))
            return false;
        end = extension.type == QCOW2_EXTENSION_END;
        crypto |= extension.type == QCOW2_EXTENSION_CRYPTO;
        at += end ? QCOW2_EXTENSION_HEADER_SIZE : extension.size;
    }
    /* The padding of the last extension may reach into the name after it. */
    h->extensions_end = at < h->extensions_limit ? at : h->extensions_limit;
    if (h->crypt_method == QCOW2_CRYPT_LUKS && !crypto)
        refuse(image->file.verdict, REFUSAL_CRYPTO_EXTENSION, AMEND_ERROR_PARSE_FAILED, 0,
               QCOW2_EXTENSION_CRYPTO, 0);
    return true;
}
