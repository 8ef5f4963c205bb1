/* Test side: runs a fuzzer's target on files, without libFuzzer: replay FILE... */
#include <stdio.h>
#include <stdlib.h>
#include <stdint.h>

#define INPUT_MAX (1u << 20)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        uint8_t *data = malloc(INPUT_MAX);
        if (!file || !data) {
            perror(argv[i]);
            return 2;
        }
        size_t size = fread(data, 1, INPUT_MAX, file);
        fclose(file);
        /* Exactly as large as the input, so that reading past its end shows. */
        uint8_t *exact = realloc(data, size ? size : 1);
        fprintf(stderr, "%s\n", argv[i]);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    return 0;
}
