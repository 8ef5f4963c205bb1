"""What info and check say of an image, held against what qemu-img says. Test side."""
